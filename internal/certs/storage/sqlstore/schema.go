package sqlstore

// schema creates what is not there. BLOB and KEYTEXT stand for the dialect's types of bytes and of texts that
// are sorted by their bytes. Times are in Unix
// milliseconds. There is one row in counter: to take a number from it locks it until the commit, so that numbers
// rise in the order of commits.
const schema = `
CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY, number BIGINT NOT NULL);
INSERT INTO counter (id, number) VALUES (1, 0) ON CONFLICT (id) DO NOTHING;
CREATE TABLE IF NOT EXISTS changes (number BIGINT PRIMARY KEY, name TEXT NOT NULL, made BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS domains (
	name KEYTEXT PRIMARY KEY, shop TEXT NOT NULL, labels TEXT NOT NULL, options TEXT NOT NULL, managed BIGINT NOT NULL,
	created BIGINT NOT NULL, updated BIGINT NOT NULL, version BIGINT NOT NULL);
CREATE INDEX IF NOT EXISTS domains_shop ON domains (shop, name);
CREATE TABLE IF NOT EXISTS labels (
	domain KEYTEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE, label TEXT NOT NULL, value TEXT NOT NULL,
	PRIMARY KEY (label, value, domain));
CREATE INDEX IF NOT EXISTS labels_domain ON labels (domain);
CREATE TABLE IF NOT EXISTS certificates (
	domain KEYTEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE, kind TEXT NOT NULL, chain BLOB NOT NULL, sealed_key BLOB NOT NULL,
	not_before BIGINT NOT NULL, not_after BIGINT NOT NULL, serial TEXT NOT NULL, source TEXT NOT NULL,
	PRIMARY KEY (domain, kind));
CREATE INDEX IF NOT EXISTS certificates_late ON certificates ((` + lateFrom + `));
CREATE TABLE IF NOT EXISTS jobs (
	domain KEYTEXT PRIMARY KEY REFERENCES domains (name) ON DELETE CASCADE, due BIGINT NOT NULL, failures BIGINT NOT NULL,
	last_error TEXT NOT NULL, holder TEXT NOT NULL, held_until BIGINT NOT NULL);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due);
CREATE TABLE IF NOT EXISTS keyed_values (name TEXT PRIMARY KEY, value BLOB NOT NULL, expires BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until BIGINT NOT NULL);
`

// lateFrom is when five sixths of a certificate's time are over. It is indexed, so that to count the few that are late does not
// read all.
const lateFrom = "not_after - (not_after - not_before) / 6"
