"""Messages of a run as Flower records, and what one host's processes share. Only here the core imports Flower."""
