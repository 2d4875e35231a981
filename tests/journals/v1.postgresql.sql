-- A journal as schema 1 had it on PostgreSQL, with a host, an ended job and an unfinished one.
CREATE TABLE about (version INTEGER NOT NULL);
CREATE TABLE host (
	name VARCHAR NOT NULL, uri VARCHAR NOT NULL, peer_uri VARCHAR, migration_address VARCHAR, tls_name VARCHAR,
	maintenance BOOLEAN NOT NULL, tags TEXT NOT NULL, PRIMARY KEY (name)
);
CREATE TABLE pair (
	source VARCHAR NOT NULL, target VARCHAR NOT NULL, tls VARCHAR NOT NULL, detail TEXT NOT NULL, seen_at FLOAT NOT NULL,
	PRIMARY KEY (source, target)
);
CREATE TABLE job (
	id SERIAL NOT NULL, kind VARCHAR NOT NULL, vm_uuid VARCHAR NOT NULL, vm_name VARCHAR NOT NULL, busy VARCHAR,
	source VARCHAR NOT NULL, target VARCHAR NOT NULL, asked TEXT NOT NULL, asked_by VARCHAR NOT NULL,
	state VARCHAR NOT NULL, epoch INTEGER NOT NULL, owner VARCHAR NOT NULL, lease_until FLOAT NOT NULL,
	started_at FLOAT NOT NULL, ended_at FLOAT, outcome TEXT NOT NULL, exit_code INTEGER, report TEXT NOT NULL,
	PRIMARY KEY (id), UNIQUE (busy)
);
CREATE TABLE step (
	job INTEGER NOT NULL, n INTEGER NOT NULL, name VARCHAR NOT NULL, intent TEXT NOT NULL, outcome TEXT,
	at FLOAT NOT NULL, ended_at FLOAT, PRIMARY KEY (job, n), FOREIGN KEY(job) REFERENCES job (id) ON DELETE CASCADE
);
INSERT INTO about VALUES (1);
INSERT INTO host VALUES ('h1', 'qemu:///system', NULL, NULL, NULL, false, '["rack a"]');
INSERT INTO job VALUES (1, 'live', 'u-1', 'db', NULL, 'h1', 'h2', '{}', 'ana@laptop', 'done', 1, 'o', 0, 1, 2, 'moved', 0,
	'');
INSERT INTO job VALUES (2, 'live', 'u-1', 'db', 'u-1', 'h2', 'h1', '{}', 'ana@laptop', 'transferring', 1, 'o', 0, 1, NULL,
	'', NULL, '');
INSERT INTO step VALUES (2, 1, 'transfer', '{"flags": ["LIVE"]}', NULL, 1, NULL);
SELECT setval('job_id_seq', 2);
