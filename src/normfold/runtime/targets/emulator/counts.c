/* Counts what a program for AArch64 executes between two marks, by class: a plug-in for QEMU's emulation of user programs.

   The program makes the system call getpriority(MARK, 1) to begin and getpriority(MARK, 2) to end, which writes a line
   of JSON to the file `counts` in its working directory. Counts are of one thread: others would lose some.
   What is used of QEMU's interface is declared here, as its version 1 has it, which QEMU 7.2 takes. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "classes.h"

#define EXPORTED __attribute__((visibility("default")))
#define GETPRIORITY 141
#define MARK 0x6e66
#define FILE_NAME "counts"

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum operation { ADD };

EXPORTED int qemu_plugin_version = 1;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*call)(uint64_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum operation, void *where, uint64_t by);
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, void (*call)(uint64_t id, unsigned cpu, int64_t number,
    uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

enum { LOADED = CLASSES, STORED, COUNTERS };
static uint64_t now[COUNTERS], begun[COUNTERS];

/* A block is executed as a whole, so that what is in it is added up once, when it is translated. */
static void translated(uint64_t id, struct qemu_plugin_tb *block) {
    uint64_t sums[COUNTERS] = {0};
    (void)id;
    for (size_t index = 0; index < qemu_plugin_tb_n_insns(block); index++) {
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, index)), sizeof code);
        struct meaning found = meaning_of(code);
        sums[found.class]++;
        sums[LOADED] += found.loaded;
        sums[STORED] += found.stored;
    }
    for (int counter = 0; counter < COUNTERS; counter++)
        if (sums[counter]) qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &now[counter], sums[counter]);
}

static void written(void) {
    FILE *file = fopen(FILE_NAME, "w");
    if (!file) return; /* the program sees that there is no line */
    fputc('{', file);
    for (int counter = 0; counter < CLASSES; counter++)
        fprintf(file, "\"%s\": %" PRIu64 ", ", class_names[counter], now[counter] - begun[counter]);
    fprintf(file, "\"bytes_loaded\": %" PRIu64 ", ", now[LOADED] - begun[LOADED]);
    fprintf(file, "\"bytes_stored\": %" PRIu64 "}\n", now[STORED] - begun[STORED]);
    fclose(file);
}

static void called(uint64_t id, unsigned cpu, int64_t number, uint64_t first, uint64_t second, uint64_t a, uint64_t b,
                   uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
    if (number != GETPRIORITY || (int32_t)first != MARK) return;
    if ((int32_t)second == 1) memcpy(begun, now, sizeof now);
    if ((int32_t)second == 2) written();
}

EXPORTED int qemu_plugin_install(uint64_t id, const void *machine, int count, char **arguments) {
    (void)machine, (void)count, (void)arguments;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
