// Package powercut takes the power away from a berthd at random moments of pulls and
// removes, and starts the next one on what was on the disk.
//
// The daemon's root is an ext4 on a loop device. The device's file, the disk, is on an
// XFS of the test's own and is written past the page cache. A power cut is a clone of the
// disk (FICLONE): it has what the file system had written at one moment, and nothing of
// what was only in memory. TestCut shows that this is so. Each clone is then mounted,
// which replays its journal, checked by e2fsck, and a berthd with a new boot ID and an
// empty state folder starts on it. What must be true then:
//
//   - it starts, and nothing in its log is an error: nobody has to repair anything;
//   - an image whose pull had been answered is there; it is pulled again without a byte
//     of a layer;
//   - a container of each image that is listed starts, and each of its files has the bytes and the
//     metadata that the image's author gave it;
//   - all images can be pulled, each layer that was on the disk is not fetched again, and
//     the containers of these are right too;
//   - no pod or container of before runs, and all of them can be removed;
//   - when all is removed, nothing is left under root.
//
// TestWithoutSync does the same to a berthd that was built without its fsyncs, and
// fails unless the checks find damage.
//
// What the mount options do: commit=1 has the journal written each second and not each
// five, so that more moments differ on the disk; noauto_da_alloc takes away ext4's mercy for
// programs that rename without fsync, which other file systems do not have. Both are
// settings of ext4's manual, and make no promise of fsync any smaller.
//
// A disk that loses what it has acknowledged and was never told to flush is not
// simulated: flushes are the file system's concern and not berthd's.
//
//	go test -v ./test/powercut    5 cuts with each driver
//	make test-powercut            200; BERTH_CUTS=n is n with each driver
package powercut
