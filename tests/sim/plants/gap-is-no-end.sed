# in daemon/tier/disk_write.c
# Behind a write that failed, later ones of the segment succeed, where no scan will find them.
s/lost = write->first_page >= segment->lost_page;/lost = write->io.status != KVC_OK;/
