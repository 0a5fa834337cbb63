/* What an AArch64 instruction does, as far as its encoding says, and the bytes of memory that it moves.
   Source: Arm Architecture Reference Manual for A-profile, chapter C4, "A64 Instruction Set Encoding". */

#include <stdint.h>

enum class { INTEGER, BRANCH, LOAD, STORE, VECTOR_LOAD, VECTOR_STORE, MULTIPLY, DOT, VECTOR, CLASSES };

static const char *const class_names[CLASSES] = {
    "integer", "branch", "load", "store", "vector_load", "vector_store", "multiply", "dot", "vector",
};

struct meaning {
    enum class class;
    unsigned loaded, stored; /* bytes */
};

static int is(uint32_t code, uint32_t mask, uint32_t value) { return (code & mask) == value; }
static unsigned bits(uint32_t code, int low, int count) { return code >> low & ((1u << count) - 1); }

/* Sums of groups of narrow products. */
static int is_dot(uint32_t code) {
    return is(code, 0x9fe0fc00, 0x0e809400)   /* SDOT, UDOT */
        || is(code, 0x9fc0f400, 0x0f80e000)   /* the same by element */
        || is(code, 0xbfe0fc00, 0x0e809c00)   /* USDOT */
        || (is(code, 0xbf00f400, 0x0f00f000) && bits(code, 22, 2) != 3) /* SUDOT, USDOT, BFDOT by element */
        || is(code, 0xbfe0fc00, 0x2e40fc00)   /* BFDOT */
        || is(code, 0xdfe0fc00, 0x4e80a400)   /* SMMLA, UMMLA */
        || is(code, 0xffe0fc00, 0x4e80ac00)   /* USMMLA */
        || is(code, 0xffe0fc00, 0x6e40ec00);  /* BFMMLA */
}

/* Products, added to something or not, of integers or of floating point. */
static int is_multiply(uint32_t code) {
    uint32_t vector = is(code, 0x9e000000, 0x0e000000) ? code : is(code, 0xde000000, 0x5e000000) ? code & ~0x50000000u : 0;
    if (is(code, 0xff000000, 0x1f000000)) return 1; /* FMADD, FMSUB, FNMADD, FNMSUB */
    if (is(code, 0xff207c00, 0x1e200800)) return 1; /* FMUL, FNMUL */
    if (!vector) return 0;
    if (is(vector, 0x8f000400, 0x0f000000)) return 1;                               /* by element */
    if (is(vector, 0x8f200c00, 0x0e200000)) return bits(vector, 12, 4) >= 8;        /* of different widths */
    if (is(vector, 0x8f60c400, 0x0e400400)) return is(vector, 0x2800, 0x0800); /* of half precision: FMLA, FMUL */
    if (is(vector, 0x8f208400, 0x0e008400)) {                                       /* the extension of the next */
        unsigned opcode = bits(vector, 11, 4);
        return opcode < 2 || opcode == 15 || opcode >> 2 == 2;
    }
    if (is(vector, 0x8f200400, 0x0e200400)) {                                       /* of the same width */
        unsigned opcode = bits(vector, 11, 5);
        return opcode == 0x12 || opcode == 0x13 || opcode == 0x16 || opcode == 0x19 || opcode == 0x1b
            || (opcode == 0x1d && !bits(vector, 29, 1));
    }
    return 0;
}

static struct meaning moves(int vector, int loads, unsigned bytes) {
    struct meaning found = {vector ? VECTOR_STORE : STORE, 0, bytes};
    if (loads) {
        found.class = vector ? VECTOR_LOAD : LOAD;
        found.loaded = bytes;
        found.stored = 0;
    }
    return found;
}

/* LD1 to LD4 and ST1 to ST4. */
static struct meaning structures(uint32_t code) {
    static const unsigned registers[16] = {4, 0, 4, 0, 3, 0, 3, 1, 2, 0, 2, 0, 0, 0, 0, 0};
    unsigned scale = bits(code, 14, 2), bytes;
    if (!bits(code, 24, 1)) {
        bytes = registers[bits(code, 12, 4)] * (bits(code, 30, 1) ? 16 : 8);
    } else {
        if (scale == 3) scale = bits(code, 10, 2);
        else if (scale == 2 && bits(code, 10, 2) == 1) scale = 3;
        bytes = (1 + bits(code, 21, 1) + 2 * bits(code, 13, 1)) << scale;
    }
    return moves(1, bits(code, 22, 1), bytes);
}

static struct meaning load_or_store(uint32_t code) {
    static const struct meaning nothing = {INTEGER, 0, 0};
    unsigned vector = bits(code, 26, 1), size = bits(code, 30, 2), opcode = bits(code, 22, 2);
    if (is(code, 0xbe000000, 0x0c000000)) return structures(code);
    if (is(code, 0x3f000000, 0x08000000)) { /* exclusive and ordered */
        unsigned pair = bits(code, 21, 1) && !bits(code, 23, 1) && size >= 2;
        return moves(0, bits(code, 22, 1), pair ? 2u << size : 1u << size);
    }
    if (is(code, 0x3b000000, 0x18000000)) /* from an address near by */
        return size == 3 ? nothing : moves(vector, 1, vector ? 4u << size : size == 1 ? 8 : 4);
    if (is(code, 0x38000000, 0x28000000)) /* pairs */
        return moves(vector, bits(code, 22, 1), vector ? 8u << size : size == 2 ? 16 : 8);
    if (vector) return moves(1, opcode & 1, 1u << (size | (opcode & 2) << 1));
    if (is(code, 0x3b200c00, 0x38200000)) return moves(0, 1, 1u << size); /* atomic */
    if (size == 3 && opcode == 2) return nothing; /* a prefetch */
    return moves(0, opcode != 0, 1u << size);
}

static struct meaning meaning_of(uint32_t code) {
    struct meaning found = {INTEGER, 0, 0};
    if (is(code, 0x0a000000, 0x08000000)) return load_or_store(code);
    if (is(code, 0x1c000000, 0x14000000)) found.class = is(code, 0xff000000, 0xd5000000) ? INTEGER : BRANCH;
    else if (is(code, 0x0e000000, 0x0e000000)) found.class = is_dot(code) ? DOT : is_multiply(code) ? MULTIPLY : VECTOR;
    else if (is(code, 0x1e000000, 0x04000000)) found.class = VECTOR; /* of scalable width */
    return found;
}
