"""The simulated twin: hosts with libvirt and QEMU, in virtual time, for tests; nothing of the product imports it.

It stands in at the lowest seam: objects that look like those of libvirt-python, which the unmodified code of this room
talks to. What it does was measured on real hosts, and a contract suite holds it and the lab to the same answers.
"""
