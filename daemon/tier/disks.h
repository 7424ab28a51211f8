/* The directories of the disk tier, one or several, opened as one tier. */
#ifndef KVC_DISKS_H
#define KVC_DISKS_H

#include "daemon/tier/disk.h"

/* options->directory: a list of directories, separated by commas; options->bytes: of all together. One alone
 * is a disk tier (disk.h). Several are striped (stripe.h) and share one secret: the first that is found, or a
 * new one. Of several, one that cannot be read, is damaged or full is left out, with an error in the log, as
 * long as another one is left; what a person must put right (rights, sizes, version, a lock) fails for all.
 *
 * *secret: the master secret. Results as kvc_disk_open. */
kvc_status kvc_disks_open(struct kvc_loop *loop, struct kvc_io *io, struct kvc_stats *stats,
                          const struct kvc_disk_options *options, char *detail, size_t detail_bytes,
                          struct kvc_secret *secret, struct kvc_tier **tier);

#endif
