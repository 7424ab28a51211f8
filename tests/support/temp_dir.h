/* A directory of a test's own. */
#ifndef KVC_TEST_TEMP_DIR_H
#define KVC_TEST_TEMP_DIR_H

#define KVC_TEMP_DIR_BYTES 256

/* Make one under $TMPDIR or /tmp (mode 0700). Ends the test if that fails. */
void kvc_test_temp_dir(char path[KVC_TEMP_DIR_BYTES]);

/* Remove it with all it holds. */
void kvc_test_temp_dir_remove(const char *path);

#endif
