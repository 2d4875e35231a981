"""The tables. Times are the database's own clock, in seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

REVISIONS = tuple(f"{number:04}" for number in range(1, 24))
"""Every schema there was, the oldest first; ``migrations`` makes each one of the one before."""
HEAD = REVISIONS[-1]

metadata = MetaData()

# What programs of schema 1 and 2 look at, to see that this is no database of theirs any more.
about = Table("about", metadata, Column("version", Integer, nullable=False))

# One row, made with the table: claims on VMs name it, so that controllers without a common database can tell whose
# they are.
identity = Table("identity", metadata, Column("journal", String, primary_key=True))

host = Table(
    "host",
    metadata,
    Column("name", String, primary_key=True),
    Column("uri", String, nullable=False),
    Column("peer_uri", String),
    Column("migration_address", String),
    Column("tls_name", String),
    Column("maintenance", Boolean, nullable=False, default=False),
    Column("tags", Text, nullable=False, default="[]"),
)

pair = Table(
    "pair",
    metadata,
    Column("source", String, primary_key=True),
    Column("target", String, primary_key=True),
    Column("tls", String, nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("seen_at", Float, nullable=False),
)

# What gets across between two hosts, as it was last measured. Bytes per second.
measured_link = Table(
    "measured_link",
    metadata,
    Column("source", String, primary_key=True),
    Column("target", String, primary_key=True),
    Column("one", Float, nullable=False),  # by one connection
    Column("several", Float, nullable=False),  # by so many side by side:
    Column("connections", Integer, nullable=False),
    Column("measured_at", Float, nullable=False),
)

# One row: what the operator wants of places, all of it.
rules = Table(
    "rules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("wanted", Text, nullable=False),  # JSON
)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("vm_uuid", String, nullable=False),
    Column("vm_name", String, nullable=False),
    # The VM's UUID until the job has ended, then NULL: the database itself keeps the promise of one job per VM.
    Column("busy", String, unique=True),
    Column("source", String, nullable=False),
    Column("target", String, nullable=False),
    Column("asked", Text, nullable=False),  # JSON: the options
    Column("asked_by", String, nullable=False),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False, default=1),
    Column("owner", String, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text, nullable=False, default=""),  # one sentence
    Column("exit_code", Integer),
    Column("report", Text, nullable=False, default=""),  # JSON
    # Written by others than the owner: who wants it cancelled, and since when.
    Column("cancel_asked_by", String),
    Column("cancel_asked_at", Float),
    Column("queued_at", Float),  # NULL: whoever asked for it began at once
    Column("plan", Integer),  # the plan it belongs to
    # What its writer may have meant: see `protocol`.
    Column("protocol", Integer, nullable=False, server_default="1"),
    Column("written_by", String, nullable=False, server_default=text("''")),
)
step = Table(
    "step",
    metadata,
    Column("job", Integer, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("intent", Text, nullable=False),  # JSON, written before the act
    Column("outcome", Text),  # JSON, written after it; NULL: nobody knows whether it was done
    Column("at", Float, nullable=False),
    Column("ended_at", Float),
)
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", Integer, ForeignKey("job.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("state", String, nullable=False),
    Column("detail", Text, nullable=False),
)
# Rows are added and never changed: a row with `ends` says how what that row asked for has ended.
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("ends", Integer),
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),  # JSON
    Column("command", Text, nullable=False),  # JSON: its words
    Column("exit_code", Integer),
    Column("outcome", Text, nullable=False),
)
# What somebody used between two looks: of a host all that was used on it, of a VM its own. CPU-seconds per second,
# bytes, bytes per second.
reading = Table(
    "reading",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # ``host`` or ``vm``
    Column("subject", String, nullable=False),  # the host's name or the VM's UUID
    Column("name", String, nullable=False),  # the VM's name then
    Column("host", String, nullable=False),  # where it was
    Column("at", Float, nullable=False, index=True),  # of the second look
    Column("span", Float, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory", Float, nullable=False),
    Column("disk", Float),
    Column("network", Float),
    Column("steal", Float, nullable=False),
    # Readings that were folded into this one: over how many seconds, and how often each figure had which size (JSON,
    # see `folding`); NULL: it stands for itself. The figures above are the means then, `at` and `span` go over all.
    Column("fold", Float),
    Column("folded", Text),
)
# A plan that is carried out. Who holds it decides what is to be begun; what is begun is a job of its own.
plan = Table(
    "plan",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),  # the host it is about, if it is about one
    Column("document", Text, nullable=False),  # JSON: the plan as it was shown
    Column("asked", Text, nullable=False),  # JSON: the policy
    Column("asked_by", String, nullable=False),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text, nullable=False),  # one sentence
    Column("exit_code", Integer),
    # Written by others than the owner: ``pause``, ``cancel`` or, after a pause, ``go on``.
    Column("wish", String),
    Column("wish_by", String),
)
plan_move = Table(
    "plan_move",
    metadata,
    Column("plan", Integer, ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("vm_uuid", String, nullable=False),
    Column("vm_name", String, nullable=False),
    Column("source", String, nullable=False),
    Column("target", String, nullable=False),
    Column("about", Text, nullable=False),  # JSON: the planned move
    Column("waits_for", Text, nullable=False),  # JSON: numbers of moves
    Column("state", String, nullable=False),
    Column("job", Integer),
    Column("outcome", Text, nullable=False),
    Column("exit_code", Integer),
    Column("began_at", Float),
    Column("ended_at", Float),
)
# VMs that left a host for its maintenance, and are to come home.
away = Table(
    "away",
    metadata,
    Column("vm_uuid", String, primary_key=True),
    Column("vm_name", String, nullable=False),
    Column("host", String, nullable=False),  # home
    Column("runs", Boolean, nullable=False),  # whether it ran when it left
    Column("at", Float, nullable=False),
)
# Who does what only one controller may do at a time.
duty = Table(
    "duty",
    metadata,
    Column("name", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("since", Float, nullable=False),
)
# What each look of a continuous balance came to.
balance_round = Table(
    "balance_round",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("asked", Boolean, nullable=False),  # whether something was to be moved
    Column("imbalance", Float),
    Column("plan", Integer),
    Column("said", Text, nullable=False),  # one sentence
)
# Keys of those who ask the daemon from elsewhere.
token = Table(
    "token",
    metadata,
    Column("name", String, primary_key=True),
    Column("hash", String, nullable=False, unique=True),  # SHA-256 of what opens
    Column("scopes", Text, nullable=False),  # JSON lists
    Column("hosts", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("made_by", String, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("used_at", Float),
)
# What somebody has asked for under a key of their own, so that asking again does it no second time.
request = Table(
    "request",
    metadata,
    Column("asker", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("digest", String, nullable=False),  # of what was asked for
    Column("job", Integer, nullable=False),
    Column("at", Float, nullable=False, index=True),
)
# What has been counted and measured of jobs that ended, since the journal was made; never less than it was.
tally = Table(
    "tally",
    metadata,
    Column("name", String, primary_key=True),
    Column("labels", String, primary_key=True),  # JSON
    # The upper edge of a bucket, which counts what is above the edge before; ``sum``; or ``count``.
    Column("edge", String, primary_key=True),
    Column("value", Float, nullable=False),
)
# What others may want to hear of, written together with what it tells of.
happening = Table(
    "happening",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),  # a VM's or a host's name, or a plan's number
    Column("said", Text, nullable=False),  # one sentence
    Column("about", Text, nullable=False),  # JSON
    Column("given_at", Float),  # when its deliveries were written down; NULL: nobody has looked at it
)
# What one receiver is to be told of one happening.
delivery = Table(
    "delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("happening", Integer, ForeignKey("happening.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("webhook", String, nullable=False),
    Column("state", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("answer", Text, nullable=False),  # what the last try came to, in words
)
# What was on each host when it was last seen, so that it can be told when the host is gone.
sighting = Table(
    "sighting",
    metadata,
    Column("host", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("seen", Text, nullable=False),  # JSON: the host and its VMs, without their definitions
)
# A VM with a replica at another host, and what became of the last round.
protection = Table(
    "protection",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("vm_uuid", String, nullable=False, unique=True),
    Column("vm_name", String, nullable=False),
    Column("target", String, nullable=False),
    Column("directory", String, nullable=False),  # of the replica, at the target
    Column("every", Float, nullable=False),
    Column("keep", Integer, nullable=False),
    Column("scratch", BigInteger, nullable=False),
    Column("standing", String, nullable=False),
    Column("epoch", Integer, nullable=False),  # goes up whenever the VM comes up elsewhere by failover
    Column("autostart", Boolean, nullable=False),  # as it was before
    Column("checkpoint", String, nullable=False),  # libvirt's, at the newest restore point
    Column("rounds", Integer, nullable=False),
    Column("made_by", String, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("tried_at", Float),
    Column("said", Text, nullable=False),
    Column("seed", Text, nullable=False, server_default="{}"),  # JSON: a disk → the stale image at the target
    Column("group", String, nullable=False, server_default=text("''")),  # whose rounds it shares; empty: nobody's
    Column("bandwidth", BigInteger),  # bytes per second
    Column("verify_every", Float),
    Column("verified_at", Float),
    Column("freeze_every", Integer),  # rounds
    Column("compress", String, nullable=False, server_default=text("'auto'")),
    Column("carriage", Text, nullable=False, server_default="{}"),  # JSON: what was measured of the way
)
# A row is written when the point is whole at the target; it is given up before anything of it is touched there.
restore_point = Table(
    "restore_point",
    metadata,
    Column("protection", Integer, ForeignKey("protection.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("taken_at", Float, nullable=False),
    Column("disks", Text, nullable=False),  # JSON: the guest's name for a disk → its image and size
    Column("definition", Text, nullable=False),
    Column("carried", BigInteger, nullable=False),
    Column("given_up", Boolean, nullable=False, default=False),  # its images go into those of the one after it
    Column("instant", String, nullable=False, server_default=text("''")),  # which points of a group have in common
    Column("consistency", String, nullable=False, server_default=text("'crash'")),
    Column("firmware", Text, nullable=False, server_default=text("''")),  # JSON: archive and digest; empty: none
    Column("sent", BigInteger),  # bytes that left the source
    Column("why_not", Text, nullable=False, server_default=text("''")),
)
# A test failover: it is written down before anything of it is made, and keeps the points that it stands on.
trial = Table(
    "trial",
    metadata,
    Column("protection", Integer, ForeignKey("protection.id", ondelete="CASCADE"), primary_key=True),
    Column("point", Integer, nullable=False),
    Column("uuid", String, nullable=False),  # of the double
    Column("name", String, nullable=False),
    Column("host", String, nullable=False),
    Column("begun_at", Float, nullable=False),
    Column("before", Text, nullable=False),  # JSON: what → how it was
    Column("times", Text, nullable=False),  # JSON: what → seconds until then
)
# In which order VMs are brought back.
recovery_plan = Table(
    "recovery_plan",
    metadata,
    Column("name", String, primary_key=True),
    Column("text", Text, nullable=False),  # TOML
    Column("made_by", String, nullable=False),
    Column("made_at", Float, nullable=False),
)
# Where the journal and the settings are sent, so that they outlive this machine.
standby = Table(
    "standby",
    metadata,
    Column("name", String, primary_key=True),  # a host's, or ssh://…
    Column("directory", String, nullable=False),
    Column("every", Float, nullable=False),
    Column("generation", Integer, nullable=False),  # the newest that is there, by its word
    Column("taken_at", Float),  # the instant that it is of
    Column("size", BigInteger),
    Column("tried_at", Float),
    Column("said", Text, nullable=False, default=""),  # why the last one was not sent; empty: it was
    Column("made_by", String, nullable=False),
    Column("made_at", Float, nullable=False),
)
# One row: how often this journal has been taken over at another machine, and whether that has happened since, so that
# nothing is done any more by this copy of it.
reign = Table(
    "reign",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("replaced", Text, nullable=False, default=""),  # how that was found out; empty: it was not
    Column("looked_at", Float, nullable=False, default=0.0),
)
# Who has logged in to the daemon's pages.
session = Table(
    "session",
    metadata,
    Column("hash", String, primary_key=True),  # SHA-256 of what opens
    Column("name", String, nullable=False),
    Column("token", String),  # the hash of the one it was begun with, and ends with
    Column("scopes", Text, nullable=False),  # JSON lists
    Column("hosts", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
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
# A command that is run on one host after the other, each emptied before and filled again after.
rolling = Table(
    "rolling",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("asked", Text, nullable=False),  # JSON
    Column("asked_by", String, nullable=False),
    Column("state", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text, nullable=False),  # one sentence
    Column("wish_by", String, nullable=False),  # who wants it stopped
)
rolling_host = Table(
    "rolling_host",
    metadata,
    Column("rolling", Integer, ForeignKey("rolling.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("host", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("before", Text, nullable=False),  # JSON: what it was like; empty: nothing was done to it yet
    Column("boot", String, nullable=False),
    Column("begun_at", Float),  # since when the command is known to run there
    Column("exit_code", Integer),
    Column("output", Text, nullable=False),
    Column("taken", BigInteger, nullable=False),  # bytes of the output that were read
    Column("said", Text, nullable=False),  # what is the matter, one sentence
)
