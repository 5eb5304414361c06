"""Where a run is logged besides its own folder; one file per tracker."""
