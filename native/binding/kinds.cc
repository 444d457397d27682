#include "kinds.h"

#include "environment.h"
#include "file.h"
#include "hosts.h"
#include "values.h"

namespace vfio::binding {
namespace {

// The name of the kind with its article, as in "which is ...". Null: the package does not support this kind.
const char* inWords(FileKind kind) {
  switch (kind) {
    case FileKind::iommufd:
      return "an iommufd";
    case FileKind::container:
      return "a VFIO container";
    case FileKind::group:
      return "a VFIO group";
    case FileKind::device:
      return "a VFIO device";
    case FileKind::faultQueue:
      return "a fault queue of an iommufd";
    case FileKind::eventQueue:
      return "an event queue of an iommufd";
    case FileKind::bond:
      return "a bond of shared virtual addressing";
    case FileKind::unknown:
    case FileKind::other:
      break;
  }
  return nullptr;
}

std::string wanted(FileKind kind) {
  const char* const words = inWords(kind);
  return words ? words : "another kind of file";
}

// "which is a VFIO container (/dev/vfio/vfio)"
std::string whatItIs(FileKind kind, const std::string& name, const std::string& received) {
  if (kind == FileKind::unknown) return "and neither /sys nor /proc tells what that is";
  const bool told = !name.empty() && received != "'" + name + "'";
  const char* const words = inWords(kind);
  if (words) return std::string("which is ") + words + (told ? " (" + name + ")" : "");
  return "which is " + (told ? name : "another kind of file");
}

// Node's own code for a descriptor of a wrong kind.
[[noreturn]] void refuseFile(Napi::Env env, const std::string& message) {
  Napi::TypeError error = Napi::TypeError::New(env, message);
  error.Set("code", "ERR_INVALID_FD_TYPE");
  throw error;
}

}  // namespace

FileKind kindArgument(const Arguments& arguments, size_t index) {
  static constexpr std::pair<const char*, FileKind> kKinds[] = {{"iommufd", FileKind::iommufd},
                                                                {"device", FileKind::device},
                                                                {"group", FileKind::group},
                                                                {"container", FileKind::container},
                                                                {"other", FileKind::other}};
  return oneOf(arguments, index, "kind", kKinds);
}

void requireKind(Napi::Env env, Backend& backend, int fd, FileKind kind, const char* expected,
                 const char* name, const std::string& received) {
  const FileKind is = backend.kindOf(fd);
  if (is == kind) return;
  refuseFile(env, std::string("Expected ") + expected + " " + wanted(kind) + " for " + name +
                      " but received " + received + ", " + whatItIs(is, backend.nameOf(fd), received));
}

// (fd, kind)
Napi::Value adopt(const Arguments& arguments, const std::shared_ptr<Backend>& host) {
  const Napi::Env env = arguments.env();
  const int fd = arguments.descriptor(0, "fd");
  const FileKind kind = kindArgument(arguments, 1);
  const std::string number = std::to_string(fd);
  std::shared_ptr<Backend> backend = hostOf(fd);
  const auto require = [&](int which) {
    requireKind(env, *backend, which, kind, "the descriptor of", "fd", number);
  };
  // Check before the duplicate exists: closing a duplicate would release the record locks that the program
  // holds on the file.
  if (backend->kindOf(fd) != FileKind::unknown) require(fd);
  const int copy = backend->dup(fd);
  if (copy < 0) throwErrno(env, copy, "fcntl");
  Fresh fresh{*backend, copy};
  require(copy);  // the number may belong to another file by now
  if (host && host != backend)
    refuseFile(env, std::string("Expected the descriptor of ") + wanted(kind) +
                        " of this host for fd but received " + number + ", which is another host's");
  return File::make(env, std::move(backend), fresh.release(), kind, true);
}

}  // namespace vfio::binding
