"""What happens in the air: one file per model of the multiple-access channel."""
