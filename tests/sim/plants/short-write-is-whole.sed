# in daemon/io/io.c
# What was transferred in part counts as all of it.
/^static void transferred/,/^}/ s/if (req->transferred + bytes == req->wanted)/if (bytes > 0)/
