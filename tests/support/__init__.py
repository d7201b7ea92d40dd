"""What tests of several folders use: programs that they start, pages of the documentation."""
