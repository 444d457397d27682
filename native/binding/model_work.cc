#include "model_work.h"

#include <map>

namespace vfio::binding {

std::shared_ptr<ModelWork> ModelWork::of(const std::weak_ptr<Backend>& host) {
  static std::mutex lock;
  static std::map<std::weak_ptr<Backend>, std::weak_ptr<ModelWork>, std::owner_less<>> all;
  const std::lock_guard hold(lock);
  std::erase_if(all, [](const auto& each) { return each.first.expired(); });
  std::weak_ptr<ModelWork>& found = all[host];
  std::shared_ptr<ModelWork> work = found.lock();
  if (!work) found = work = std::make_shared<ModelWork>();
  return work;
}

ModelWork::Piece::Piece(std::shared_ptr<ModelWork> work) : work_(std::move(work)) {
  const std::lock_guard hold(work_->lock_);
  ++work_->count_.left;
}

ModelWork::Piece::~Piece() {
  if (!work_) return;
  const std::lock_guard hold(work_->lock_);
  --work_->count_.left;
  ++work_->count_.ended;
}

ModelWork::Count ModelWork::count() {
  const std::lock_guard hold(lock_);
  return count_;
}

}  // namespace vfio::binding
