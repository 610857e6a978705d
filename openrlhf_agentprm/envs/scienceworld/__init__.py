"""ScienceWorld (Wang et al., arXiv 2203.07540): elementary-school science experiments in text, on a simulator that runs in a JVM."""
