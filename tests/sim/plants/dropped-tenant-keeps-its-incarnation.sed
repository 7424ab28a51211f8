# in daemon/tier/keyring.c
# A drop takes the key away, and the incarnation stays.
s/row->incarnation = incarnation;/(void)incarnation;/
