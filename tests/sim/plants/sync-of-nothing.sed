# in daemon/tier/disk_sync.c
# A round of syncs asks for no file.
/^static void file_sync/,/^}/ s/settled_end(segment)/segment->synced_page/
s/^static uint32_t settled_end/__attribute__((unused)) &/
