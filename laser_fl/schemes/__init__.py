"""What is sent: one file per scheme."""
