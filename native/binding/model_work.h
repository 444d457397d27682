// The work of the JavaScript models of a host that is not finished: calls that wait for the event loop of the
// model's thread, and what an async function of a model has begun. The engine of the host knows nothing of
// it, so lib/ waits for both (lib/host/software/settle.ts).
//
// Life: one ModelWork for a host, made by whoever asks first, kept by the links of the host's models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "../backend.h"

namespace vfio::binding {

class ModelWork {
 public:
  [[nodiscard]] static std::shared_ptr<ModelWork> of(const std::weak_ptr<Backend>& host);

  // A piece of work, from its beginning to its end.
  class Piece {
   public:
    explicit Piece(std::shared_ptr<ModelWork> work);
    ~Piece();
    Piece(Piece&& other) noexcept : work_(std::move(other.work_)) {}
    Piece& operator=(Piece&& other) noexcept {
      std::swap(work_, other.work_);
      return *this;
    }
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;

   private:
    std::shared_ptr<ModelWork> work_;  // null: moved away
  };

  struct Count {
    size_t left;     // pieces under way
    uint64_t ended;  // pieces that have ended
  };
  [[nodiscard]] Count count();

 private:
  std::mutex lock_;
  Count count_{};
};

}  // namespace vfio::binding
