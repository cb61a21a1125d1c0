// Package backup writes everything of a Rumi home that matters into one encrypted file, verifies such a file, and restores it.
//
// # The file
//
// age (filippo.io/age) around zstd around tar. So without Rumi, too, `age -d FILE | zstd -d | tar x` brings everything back. The first entry,
// rumi-backup.json, says what the file is. Then come the folders and files under the paths that they have in the home; of several entries
// with one path the last one counts. The last entry, rumi-manifest.jsonl, is the manifest: the summary, then a line for each folder, file
// and link that counts, with mode, owner, size and SHA-256. What isn't in the manifest is not restored.
//
// # What makes a backup consistent
//
// The suite runs meanwhile. The files come first and the databases last, because services write a file before the record that names it. Then
// the references between both are checked, by the same code as in a verification. Where one doesn't fit, since something changed in
// between, what has changed is taken again, and the databases again after it. docs/adr/backup.md has the reasons.
//
// # Reading order
//
// area.go (what is taken and what is not), walk.go (reading a home that others write to), format.go (the manifest), write.go (a backup from
// beginning to end), database.go (SQLite), content.go and references.go (what a verification checks), read.go (a file from
// beginning to end), restore.go, running.go, retention.go and schedule.go.
package backup
