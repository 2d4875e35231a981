"""May this VM go there? Pure: one snapshot and the probed facts in, findings with remedies out."""
