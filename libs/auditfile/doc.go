// Package auditfile reads the files that package audit writes: entries, the filter that asks for some of them, lines forwards and backwards from
// an offset, and cursors that say how far somebody has read.
//
// A file is plain (security_2026-01-31.jsonl) while it grows, and may be compressed later (security_2026-01-31.jsonl.zst, see Compress). Offsets
// are always those of the uncompressed lines, so that cursors, indexes and seals survive the compression.
//
// Whoever may write the audit log may write anything into it: every bound in this package is there for a file with hostile lines.
package auditfile
