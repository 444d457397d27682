// Which sanitizer this is compiled with: VFIO_ASAN and VFIO_TSAN are 1 or 0. GCC and clang say it
// differently.
#pragma once

#if defined(__has_feature)
#define VFIO_ASAN __has_feature(address_sanitizer)
#define VFIO_TSAN __has_feature(thread_sanitizer)
#else
#if defined(__SANITIZE_ADDRESS__)
#define VFIO_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define VFIO_TSAN 1
#endif
#endif

#ifndef VFIO_ASAN
#define VFIO_ASAN 0
#endif
#ifndef VFIO_TSAN
#define VFIO_TSAN 0
#endif
