"""What any layout needs and how fast it is, by arithmetic alone; nothing is compiled."""
