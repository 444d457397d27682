// The sysfs and /dev of the software host as real directories, links and files in a private temporary
// directory, so that whatever a program does with names works: directory descriptors, the working directory,
// the C library's own walks. What must be live (device nodes, config space, attributes that are written) is
// opened on the host instead; an attribute that is read is written down anew at each open.
//
// Life: made when a name is first needed, brought up to date after each write to an attribute, removed when
// the process ends. The child of a fork makes its own. The process holds a lock on the directory: one that
// nobody has locked is of a process that was killed, and is removed by the next one, in whatever container.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "../soft/files/status.h"
#include "../soft/host/host.h"

namespace vfio::preload {

// The path on the software host that a call's path stands for; nothing: it is none of the host's.
// `directory`: as in openat.
[[nodiscard]] std::optional<std::string> hostPath(int directory, const char* path);

// Where the mirror has it, up to date.
[[nodiscard]] std::string mirrored(const std::string& hostPath);
// The same, with the text of the attribute as it is now. False: it can't be read.
[[nodiscard]] bool mirroredText(const std::string& hostPath, std::string& path);

// A path as the program should see it: without the mirror's directory in front.
[[nodiscard]] std::string programPath(const std::string& path);

// Names may have changed: an attribute was written.
void namesChanged();

// Around a fork. The child forgets the mirror: it is the parent's.
void lockMirror();
void unlockMirror(bool forget);
void removeMirror();

}  // namespace vfio::preload
