# in daemon/cache/hints.c
# An ephemeral block is written like any other.
/^void kvc_hints_new/,/^}/ s/entry->flags |= KVC_ENTRY_LOOSE;/(void)entry->flags;/
