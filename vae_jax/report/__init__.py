"""What people look at: logs and pictures."""
