// Package auditlog makes later changes of the audit log visible. It is what `rumi audit` does.
//
// The services append lines to the files in user_data/audit (libs/audit). All of them may write there, so one that was taken over could
// change what the others wrote. A separate process, the Sealer, reads the files and keeps in a folder of its own, which no service
// mounts, what the lines were:
//
//	records.jsonl        one record (Record) for each sealing: which lines of which files, with the root of the Merkle tree of these lines
//	hashes/FILE.PART     the hashes of the lines of a file, 32 bytes each, so that a changed line can be named
//	checkpoint           the newest signed checkpoint: size and root of the Merkle tree over the records
//	state.json           what spares a long log its reading at each start
//
// So there are two levels. A line is a leaf of the tree of its sealing; the record of the sealing is a leaf of the log. Both are the
// trees of RFC 6962. The upper one grows once a sealing and not once a line, so it is small, and its leaves can be read by a person.
// The checkpoint has the form of https://c2sp.org/tlog-checkpoint, signed as golang.org/x/mod/sumdb/note does.
//
// A record is on the disk before a checkpoint that covers it is signed, and is never removed. So there are never two signed trees
// of one size, whenever the sealer is killed.
//
// Read record.go first, then log.go (the log), follow.go (the files), sealer.go (both together), verify.go and compare.go, prove.go.
package auditlog
