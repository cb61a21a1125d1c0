package auditlog

// Kind says in one word what differs between the audit log and what was sealed.
type Kind string

// Differences in the audit log's files.
const (
	Changed    Kind = "changed"    // a line has another content
	Missing    Kind = "missing"    // lines are missing, and later ones are there
	Moved      Kind = "moved"      // a line is at another place of its file
	Inserted   Kind = "inserted"   // a line is there that was never sealed, before others that were
	Truncated  Kind = "truncated"  // the end of the file is missing
	Replaced   Kind = "replaced"   // another file is in its place: an older copy, or one with other content
	Removed    Kind = "removed"    // the file is gone
	Renamed    Kind = "renamed"    // the file is complete, under another name
	Unsealed   Kind = "unsealed"   // lines that aren't sealed as yet
	Torn       Kind = "torn"       // a line that a crash cut short
	Unreadable Kind = "unreadable" // the file can't be read
)

// Differences in the seals themselves.
const (
	RecordChanged   Kind = "record_changed"   // a record isn't the one that later ones, or the checkpoint, are about
	RecordsMissing  Kind = "records_missing"  // there are fewer records than a checkpoint has signed
	HashesChanged   Kind = "hashes_changed"   // the hashes of a file's lines aren't those of the records
	CheckpointWrong Kind = "checkpoint_wrong" // the newest checkpoint is missing, unsigned, or signed by another key
	NotAnExtension  Kind = "not_an_extension" // the log isn't a continuation of the checkpoint that was kept elsewhere
	NoticedBefore   Kind = "noticed"          // the sealer noticed a change while it ran
)
