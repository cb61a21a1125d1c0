// Package packdata looks after what packs keep on the disk: the folder that a pack's container sees as /data, how much it
// holds, and what an uninstall puts aside of it.
//
// The layout under the data root (user_data/packs of the Rumi home):
//
//	<pack_id>/                                 the data of an installed pack, mounted as /data
//	.uninstalled/<pack_id>/000002-<time>/      archived data, one folder for each uninstall
//
// All of it was written by packs, that is by an attacker: names, links and modes in it are theirs. So nothing here follows a
// link, and a folder is opened before it is judged. Callers (package container) hold the pack's lock, except for Measure.
package packdata
