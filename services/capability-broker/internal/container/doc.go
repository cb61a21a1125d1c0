// Package container runs packs: one container for each pack. An operator starts it, it is stopped as soon as the pack's gate
// closes, and it is started again after an end if the pack's restart policy says so.
//
// # How it decides
//
// The package is a controller. The engine says which containers exist, Records say what an operator wants of them, Gates say
// which packs may run. An event is never acted upon by itself: it puts the pack into a queue, and reconcile compares what is
// there with what should be. So events may be lost, come twice or come late, and any number of replicas of the broker may
// do this work side by side on one host: everything that is done to a pack's container is done under the pack's lock, in
// this process and, by a lock file, on this host. The second replica finds nothing left to do.
//
// # Attacks and accidents that it answers
//
//   - Forged containers. Any user of the engine can put our labels on another container. A container is a pack's own
//     only if its id is the one that was recorded before its first start (see observe); others with our labels are removed.
//   - Gates that close during a start. The gate is asked again after the start (see Start).
//   - A broker that is killed between two steps. The record is written before the engine's API is called, and has what is needed
//     to find out afterwards whether the engine did it (see Record.PreviousStart).
//   - Paused containers. A pause stops nothing for good: such a container counts as alive and is killed like one that runs.
//   - Engines that restart. An end that comes with the engine's own end isn't the pack's doing (see exitTracker).
//   - Packs that fill the disk (see enforceDataLimit).
//
// # Reading order
//
// manager.go (what a Manager has, and which lock guards what), start.go, stop.go, reconcile.go, watch.go; then the rest.
package container
