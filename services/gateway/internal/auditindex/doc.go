// Package auditindex keeps an index beside the audit log, so that GET /api/audit finds entries without reading all lines.
//
// The index is a folder of segments, files that never change. A segment is about a range of bytes of one category and day, and says in which of its
// rows (the entries, in the order of the file) a value occurs:
//
//	network_2026-01-31.0000000000000000-0000000001048571.seg
//
// It only narrows. Whoever asks reads each line that is proposed, and compares it himself. So a collision of hashes costs time, and never makes a wrong answer.
// What the index doesn't cover (the last lines of today, the range of a segment that is damaged) is read directly.
//
// One process at a time writes segments (flock on the file "lock"); any number reads them. A segment comes into being by a rename, so it is there
// as a whole or not at all. All of the folder can be removed at any time: it is made anew from the log.
//
// Read format.go (what a segment is), build.go (from lines to a segment), segment.go (from a filter to rows), catalog.go (which segments are
// there and fit the log), indexer.go (what keeps the folder up to date).
package auditindex
