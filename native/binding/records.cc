#include "records.h"

#include <cerrno>
#include <string>

#include "../uapi/iommufd_data.h"
#include "environment.h"
#include "replies.h"

namespace vfio::binding {

std::vector<uint8_t> readAll(Napi::Env env, ledger::OpenFile& file, size_t unit) {
  // The size of one read. A whole group of faults must fit. A group is at most as large as the number of
  // requests that one device may have outstanding: usually 512 for PCI.
  constexpr size_t kBytes = 64 << 10;
  std::vector<uint8_t> bytes(kBytes / unit * unit);
  const int64_t got = file.backend->read(file.fd, bytes.data(), bytes.size());
  if (got < 0 && got != -EAGAIN) throwErrno(env, got, "read");
  const Reply reply(env, "read", nullptr);
  bytes.resize(got < 0 ? 0 : reply.moved(got, bytes.size()));
  if (bytes.size() % unit != 0)
    reply.refuse("it ends in the middle of a record, after " + std::to_string(got) + " bytes");
  return bytes;
}

Napi::Object accessOf(Napi::Env env, uint32_t permissions) {
  Napi::Object access = Napi::Object::New(env);
  access.Set("read", (permissions & uapi::IOMMU_PGFAULT_PERM_READ) != 0);
  access.Set("write", (permissions & uapi::IOMMU_PGFAULT_PERM_WRITE) != 0);
  access.Set("execute", (permissions & uapi::IOMMU_PGFAULT_PERM_EXEC) != 0);
  access.Set("privileged", (permissions & uapi::IOMMU_PGFAULT_PERM_PRIV) != 0);
  return access;
}

}  // namespace vfio::binding
