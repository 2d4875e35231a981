"""What can be asked of mudanza, whoever asks: the command line does it here, the daemon for those who ask by HTTP."""
