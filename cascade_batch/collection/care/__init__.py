"""What is done with the editions that there are: compare, go back, clean up, check, mend."""
