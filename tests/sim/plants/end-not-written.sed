# in daemon/cache/flight.c
# The record of a block that ends does not say so: the next start takes it over.
/^kvc_status kvc_store_begin/,/^}/ s/flight->record.ends = .*;/flight->record.ends = cache == NULL;/
