/* The functions of libnuma that vLLM links. numa_available() says that the kernel has no NUMA policy, after which libnuma's manual leaves
 * all others undefined and vLLM calls none of them: memory is placed as the kernel places it. */
int numa_available(void) { return -1; }
int numa_migrate_pages(int pid, void *from, void *to) { return -1; }
void numa_set_strict(int strict) {}
void numa_bitmask_free(void *mask) {}
void *numa_get_mems_allowed(void) { return 0; }
void *numa_parse_nodestring(const char *text) { return 0; }
void numa_set_interleave_mask(void *mask) {}
void numa_set_membind(void *mask) {}
