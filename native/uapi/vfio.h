// VFIO: the group, container and device files of /dev/vfio. The numbers of container and device requests
// overlap; the kind of file decides.
//
// Every struct starts with `argsz`. Too small is EINVAL; bytes past what the kernel knows are never looked
// at. Replies that carry capabilities raise argsz to what all of them need; those that did not fit are left
// out.
#pragma once

#include "vfio_container.h"
#include "vfio_device.h"
#include "vfio_feature.h"
#include "vfio_info.h"
#include "vfio_spapr.h"
