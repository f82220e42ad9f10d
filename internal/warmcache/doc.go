// Package warmcache saves the file caches of the most visited shops to an object storage, and restores them when a Pod starts,
// so that it need not be slow for the time in which caches fill by themselves.
//
// It promises:
//
//   - What is restored of a shop is what was in one Pod's folder at one time, whole, and published by one rename; a file that
//     is there already, because somebody wrote it meanwhile, wins.
//   - A file that was written while it was read is not saved. A snapshot is there when its head says so, after everything that
//     it needs; whoever is killed, at any time, leaves the snapshot before it.
//   - One saver at a time saves a shop. The lease is in the head, which is replaced only if it is the one that was read, so that who
//     lost it cannot publish, however late it wakes up.
//   - Everything that comes from the storage is checked: sizes before anything is allocated, content by its hash before it is
//     written. Paths lead nowhere but below the shop's folder (os.Root); there are folders and plain files, and nothing else.
//   - What a newer release cannot read it never sees: keys begin with the compatibility key that the application gives.
//   - A shop's cache that was invalidated after its snapshot was begun is not restored, whatever the clocks say, nor one that was revoked;
//     a snapshot knows the Pods that its files come from.
//   - A Pod that saves often, or is cold, does not push out what is good, nor do Pods that save the same shop take turns in less than an hour.
//   - A restore keeps its budgets of time, bytes and files, the most valuable shops first, and never fails a Pod that could
//     start cold.
//
// Save, for a shop:
//
//	walk its folder; read the manifest of its last snapshot, if there is one
//	a file whose size and times are the same as then keeps its place in an earlier pack
//	the others go into packs: frames of up to 1 MiB of files, each compressed by zstd, up to 16 MiB in a pack
//	if less than half of the earlier packs is still used, everything goes into new ones
//	take the lease; put packs, then the manifest, renewing it; then the head with the snapshot and without the lease
//
// Restore:
//
//	shops by score; for each: head → newest snapshot that is good → manifest → for each pack one GET
//	frames are decompressed, checked, and written into a locked folder beside the shop's; then one rename
//	a snapshot that cannot be read: the one before
//
// The format of what is stored is in docs/cache-format.md. Limits: a shop has 1,000,000 files and 4 GiB; a file has 64 MiB; links,
// devices and empty folders are not saved; owners are those of who restores.
package warmcache
