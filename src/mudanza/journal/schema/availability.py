"""What was where, which VMs are kept up, who proves a host off, and hosts that are off to save power."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, String, Table, Text, false, text

from mudanza.journal.schema.base import metadata

# What was on each host when it was last seen, so that it can be told when the host is gone.
sighting = Table(
    "sighting",
    metadata,
    Column("host", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("seen", Text, nullable=False),  # JSON: the host and its VMs, without their definitions
)

# What each VM was defined as when it was last seen, so that it can be started when its host is gone.
remembered = Table(
    "remembered",
    metadata,
    Column("vm_uuid", String, primary_key=True),
    Column("host", String, nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("definition", Text, nullable=False),  # without passwords
)

# VMs that are to be started elsewhere when their host dies.
kept_up = Table(
    "kept_up",
    metadata,
    Column("vm_uuid", String, primary_key=True),
    Column("vm_name", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("most", Integer, nullable=False),  # restarts within a day
    Column("autostart", Boolean, nullable=False),  # as it was before
    Column("asked_by", String, nullable=False),
    Column("at", Float, nullable=False),
    # The host on which it ran when it was seen last; empty: it did not, or somebody has shut it down.
    Column("ran_on", String, nullable=False, server_default=text("''")),
    Column("after", Text, nullable=False, server_default="[]"),  # JSON: UUIDs of those that are started before it
    Column("from_replica", Boolean, nullable=False, server_default=false()),
    Column("max_loss", Float),  # seconds
    Column("on_hang", String, nullable=False, server_default="tell"),
    Column("hang_after", Float, nullable=False, server_default="120"),  # seconds
    Column("answers", Text, nullable=False, server_default=text("''")),  # a probe; empty: none
)

# When a VM's guest answered that was started anew; without a time: not within the time that was waited.
answered = Table(
    "answered",
    metadata,
    Column("job", Integer, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("at", Float),
    Column("said", Text, nullable=False),
)

# What switches a host's power, or one of its power supplies.
fence_device = Table(
    "fence_device",
    metadata,
    Column("host", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("level", Integer, nullable=False),
    Column("agent", String, nullable=False),
    Column("options", Text, nullable=False),  # JSON
    Column("secrets", Text, nullable=False),  # JSON: option → name of the controller's file that has it
)

# What each of them said when it was asked last, nothing being switched.
fence_test = Table(
    "fence_test",
    metadata,
    Column("host", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("fault", Text, nullable=False),  # in words; empty: it answers as it should
)

# Whether what each of them switches is the host that it is said to be.
fence_match = Table(
    "fence_match",
    metadata,
    Column("host", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("verdict", String, nullable=False),
    Column("said", Text, nullable=False),
    Column("asked_by", String, nullable=False),  # whose word it is, where it cannot be told; empty: nobody's
)

# Each time that somebody wanted a host proven off; written before anything is ordered.
fencing = Table(
    "fencing",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", String, nullable=False),
    Column("by", String, nullable=False),
    Column("asked_by", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("ended_at", Float),
    Column("proven", Boolean, nullable=False),
    Column("said", Text, nullable=False),  # one sentence
    Column("void_at", Float),  # since when it proves nothing any more
    Column("void_because", Text, nullable=False),
    Column("silent", Float),  # seconds for which nothing of it had answered
)

# Hosts that live, and whose guests have lost their network.
uplink_loss = Table(
    "uplink_loss",
    metadata,
    Column("host", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("networks", Text, nullable=False),  # JSON list
    Column("closed", Boolean, nullable=False),  # to newcomers, because of it
)

# What the operator said of a host's power.
host_power = Table(
    "host_power",
    metadata,
    Column("host", String, primary_key=True),
    Column("watts", Text, nullable=False),  # JSON list, idle first; empty: nobody knows
    Column("mac", String),
    Column("keep_on", Boolean, nullable=False),
)

# Each time that a host was to be switched off or on; written before anything is done.
switching = Table(
    "switching",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", String, nullable=False),
    Column("wish", String, nullable=False),
    Column("asked_by", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("ended_at", Float),
    Column("done", Boolean, nullable=False),
    Column("said", Text, nullable=False),  # one sentence
    Column("closed", Boolean, nullable=False),  # to newcomers, before that
)
