"""What every other package may use: errors, files, seeds, devices."""
