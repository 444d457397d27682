// Instructions that may touch any address: where a fault would be a crash they stop and tell how far they
// got. The price is nothing but the instructions; a fault costs one signal.
//
// A handler for SIGSEGV and SIGBUS recognises faults of these routines by the address of the instruction (a
// non-canonical address raises a fault without an address) and sends every other fault on to the action that
// was there before: Node's, V8's, a sanitizer's, or the default. A program that installs a handler of its own
// later replaces it; keeper.h puts it in front again.
#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>

namespace vfio::guard {

// Installs the handler. More calls do nothing.
void install();

// Puts the handler in front again, where the program or a library has replaced it since. That happens by
// itself within a blink (keeper.h); this is for who knows when.
void keepInFront();

// For whoever models what is not memory: a fault that is none of these routines' is offered to `handler`,
// which says whether it dealt with it, before it goes to the action that was there before. Who does so also
// sees to it that nobody replaces the handler.
void onFault(bool (*handler)(int signal, siginfo_t* info, void* context));
// sigaction for the action that was there before: what a program sets or asks for once the handler is in
// front. `signal` is SIGSEGV or SIGBUS; both pointers may be null.
void exchangePrevious(int signal, const struct sigaction* action, struct sigaction* old);

// Copies upwards; returns the number of bytes not copied.
[[nodiscard]] size_t copy(void* to, const void* from, size_t size);

// Reads one byte of each page, or writes it with what it holds (atomically: other threads see nothing);
// returns the number of pages from the first that couldn't be. `pages` > 0.
[[nodiscard]] size_t probe(uint64_t address, size_t pages, size_t pageSize, bool write);

// One load or store of `width` bytes (1, 2, 4 or 8), aligned: exactly one instruction that touches memory.
// False: the address could not be reached, and nothing was.
[[nodiscard]] bool load(const void* address, unsigned width, uint64_t& value);
[[nodiscard]] bool store(void* address, unsigned width, uint64_t value);

// Ranges of device registers that are mapped for the program to touch directly. Where the device does not
// answer (its memory decoding is off), such a touch would be SIGBUS and the end of the process; in a watched
// range it finds zeroes instead, and the page stays so until it is mapped anew. Ranges are known by their
// start. There is room for 4096 at once.
class Watch;
// Null: there is no room. `pageSize` is that of the mapping.
[[nodiscard]] Watch* watchRange(uintptr_t start, size_t length, size_t pageSize);
void unwatchRange(Watch* watch);
// Was a page of the range replaced by zeroes? Then what is read there is not the device's.
[[nodiscard]] bool replaced(const Watch* watch);

}  // namespace vfio::guard
