# in daemon/cache/put.c
# A put that waits for a sync does not hear that its place was lost.
/^void kvc_put_synced/,/^}/ s/ && op->lost ? KVC_IO : status/ ? KVC_OK : status/
