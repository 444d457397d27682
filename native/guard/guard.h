// Routines that may access any address: a fault does not crash the process. The routine stops and reports how
// far it got. Without a fault the cost is only the instructions; a fault costs one signal.
//
// A handler for SIGSEGV and SIGBUS recognises faults of these routines by the address of the instruction (a
// non-canonical address raises a fault without an address) and passes every other fault to the previous
// action: the action of Node, V8 or a sanitizer, or the default. If a program installs its own handler later,
// that replaces this one; keeper.h puts it in front again.
#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>

namespace vfio::guard {

// Installs the handler. More calls do nothing.
void install();

// Puts the handler in front again, if the program or a library has replaced it. A thread does this within a
// short time anyway (keeper.h); this call is for code that knows when it is needed.
void keepInFront();

// For code that models addresses without memory. A fault outside these routines is first offered to
// `handler`. `handler` returns true if it has handled the fault; otherwise the fault goes to the previous
// action. A caller of this function must also make sure that nobody replaces the guard's handler.
void onFault(bool (*handler)(int signal, siginfo_t* info, void* context));
// sigaction on the previous action: the program sets and reads that action while the guard's handler is in
// front. `signal` is SIGSEGV or SIGBUS; both pointers may be null.
void exchangePrevious(int signal, const struct sigaction* action, struct sigaction* old);

// Copies from low to high addresses; returns the number of bytes not copied.
[[nodiscard]] size_t copy(void* to, const void* from, size_t size);

// Reads one byte of each page, or writes the same value back (atomically, so other threads notice nothing).
// Returns the number of pages that are left, counted from the first page that failed. `pages` > 0.
[[nodiscard]] size_t probe(uint64_t address, size_t pages, size_t pageSize, bool write);

// One load or store of `width` bytes (1, 2, 4 or 8), aligned: exactly one instruction that touches memory.
// False: the address is not accessible, and nothing was read or written.
[[nodiscard]] bool load(const void* address, unsigned width, uint64_t& value);
[[nodiscard]] bool store(void* address, unsigned width, uint64_t value);

// Ranges of device registers that are mapped for the program to touch directly. If the device does not answer
// (its memory decoding is off), such an access would raise SIGBUS and end the process. In a watched range the
// access finds zeroes instead, and the page stays zero until it is mapped again. A range is identified by its
// start. At most 4096 ranges can be watched at once.
class Watch;
// Null: all entries are in use. `pageSize`: the page size of the mapping.
[[nodiscard]] Watch* watchRange(uintptr_t start, size_t length, size_t pageSize);
void unwatchRange(Watch* watch);
// Was a page of the range replaced by zeroes? Then values read there do not come from the device.
[[nodiscard]] bool replaced(const Watch* watch);

}  // namespace vfio::guard
