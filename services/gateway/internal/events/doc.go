// Package events answers GET /api/events: the entries of the audit log as server-sent events, from a cursor on.
//
// There is no queue anywhere. A stream is a position in each file of the log, and reads on from there at the pace of its client; the files are the
// buffer. So a stream holds a few chunks of lines, whatever its client does, and goes on after a restart or at another gateway from its cursor alone.
//
// A Log is what the streams of one gateway share: the open files, the chunks that were read last (with many streams, each line is read and parsed
// once), and the one goroutine that looks whether files have grown.
package events
