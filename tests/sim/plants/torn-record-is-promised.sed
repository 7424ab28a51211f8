# in daemon/cache/put.c
# A durable put of a block that was found at start, and that nobody has read, is acknowledged as it is.
/^static void put_present/,/^}/ s/op->durable && entry->flags & KVC_ENTRY_UNREAD/op->durable \&\& cache == NULL/
