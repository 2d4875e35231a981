-- A journal as schema 2 had it on PostgreSQL: a host, an ended job, one that is under way and remembers a password, one closed by a person.
CREATE TABLE about (
	version INTEGER NOT NULL
);
CREATE TABLE host (
	name VARCHAR NOT NULL, uri VARCHAR NOT NULL, peer_uri VARCHAR,
	migration_address VARCHAR, tls_name VARCHAR, maintenance BOOLEAN NOT NULL,
	tags TEXT NOT NULL, PRIMARY KEY (name)
);
CREATE TABLE job (
	id SERIAL NOT NULL, kind VARCHAR NOT NULL, vm_uuid VARCHAR NOT NULL,
	vm_name VARCHAR NOT NULL, busy VARCHAR, source VARCHAR NOT NULL,
	target VARCHAR NOT NULL, asked TEXT NOT NULL, asked_by VARCHAR NOT NULL,
	state VARCHAR NOT NULL, epoch INTEGER NOT NULL, owner VARCHAR NOT NULL,
	lease_until FLOAT NOT NULL, started_at FLOAT NOT NULL, ended_at FLOAT,
	outcome TEXT NOT NULL, exit_code INTEGER, report TEXT NOT NULL,
	cancel_asked_by VARCHAR, cancel_asked_at FLOAT, PRIMARY KEY (id),
	UNIQUE (busy)
);
CREATE TABLE pair (
	source VARCHAR NOT NULL, target VARCHAR NOT NULL, tls VARCHAR NOT NULL,
	detail TEXT NOT NULL, seen_at FLOAT NOT NULL, PRIMARY KEY (source,
	target)
);
CREATE TABLE step (
	job INTEGER NOT NULL, n INTEGER NOT NULL, name VARCHAR NOT NULL,
	intent TEXT NOT NULL, outcome TEXT, at FLOAT NOT NULL, ended_at FLOAT,
	PRIMARY KEY (job, n), FOREIGN KEY(job) REFERENCES job (id) ON DELETE CASCADE
);
INSERT INTO about VALUES (2);
INSERT INTO host VALUES ('h1', 'qemu:///system', NULL, NULL, NULL, false, '["rack a"]');
INSERT INTO host VALUES ('h2', 'qemu+ssh://root@h2/system', 'qemu+tls://h2/system', '10.0.0.2', 'h2', true, '[]');
INSERT INTO pair VALUES ('h1', 'h2', 'yes', '', 5);
INSERT INTO job (id, kind, vm_uuid, vm_name, busy, source, target, asked, asked_by, state, epoch, owner, lease_until, started_at, ended_at, outcome,
	exit_code, report, cancel_asked_by, cancel_asked_at) VALUES (
	1, 'live', 'u-1', 'db', NULL, 'h1', 'h2', '{"mode": "auto", "max_downtime": 0.3, "bandwidth": null, "deadline": null, "map_storage": {}, "map_network": {}, "keep_source": false, "tls": "auto", "verify": "full", "chain": null, "media": "there", "format": null, "force_off": false, "shutdown_limit": 180.0}', 'ana@laptop', 'done', 1, 'laptop:7:abcd', 0, 1, 2, 'moved', 0, '{"vm": "db"}', NULL, NULL
);
INSERT INTO job (id, kind, vm_uuid, vm_name, busy, source, target, asked, asked_by, state, epoch, owner, lease_until, started_at, ended_at, outcome,
	exit_code, report, cancel_asked_by, cancel_asked_at) VALUES (
	2, 'live', 'u-1', 'db', 'u-1', 'h2', 'h1', '{"mode": "auto", "max_downtime": 0.3, "bandwidth": null, "deadline": null, "map_storage": {}, "map_network": {}, "keep_source": false, "tls": "auto", "verify": "full", "chain": null, "media": "there", "format": null, "force_off": false, "shutdown_limit": 180.0}', 'ana@laptop', 'transferring', 3, 'laptop:7:abcd', 0, 3, NULL, '', NULL, '', 'bo@desk', 4
);
INSERT INTO job (id, kind, vm_uuid, vm_name, busy, source, target, asked, asked_by, state, epoch, owner, lease_until, started_at, ended_at, outcome,
	exit_code, report, cancel_asked_by, cancel_asked_at) VALUES (
	3, 'cold', 'u-2', 'web', NULL, 'h1', 'h2', '{"mode": "auto", "max_downtime": 0.3, "bandwidth": null, "deadline": null, "map_storage": {}, "map_network": {}, "keep_source": false, "tls": "auto", "verify": "full", "chain": null, "media": "there", "format": null, "force_off": false, "shutdown_limit": 180.0}', 'ana@laptop', 'closed', 2, 'laptop:7:abcd', 0, 5, 6, 'closed by ana@laptop, who has looked; nothing was touched', 5, '{"left": ["h2:/srv/web.qcow2"]}', NULL, NULL
);
INSERT INTO step VALUES (
	2, 1, 'decide', '{"uuid": "u-1", "name": "db", "source": "h2", "target": "h1", "was_paused": false, "persistent": true, "autostart": true, "keep_source": false, "tls": false, "xml": "<domain type=''kvm''><name>db</name><uuid>u-1</uuid><devices><graphics type=''vnc'' port=''-1'' passwd=''opensesame''/></devices></domain>", "inactive_xml": "<domain type=\"kvm\"><name>db</name><uuid>u-1</uuid><devices><graphics type=\"vnc\" port=\"-1\" passwd=\"opensesame\"/></devices></domain>", "disks": [], "warnings": [], "checking_time": 0.0, "synchronous": false, "ahead": [], "keeps_chains": false, "arch": "", "machine": "", "domain_type": ""}', '{"tls": false}', 3, 3
);
INSERT INTO step VALUES (
	2, 2, 'transfer', '{"flags": ["LIVE"], "peer": "qemu+tls://h1/system"}', NULL, 3, NULL
);
INSERT INTO step VALUES (
	3, 1, 'close', '{"by": "ana@laptop"}', '{"touched": "nothing"}', 6, 6
);
SELECT setval('job_id_seq', 3);
