{
  # test/fuzz/api/build.sh sets `sanitize`, and `soft`: the library that test/soft/Makefile has compiled for it.
  "variables": { "werror%": 0, "bench%": 0, "sanitize%": 0, "soft%": "" },
  "target_defaults": {
    "cflags!": ["-fno-exceptions"],
    "cflags_cc!": ["-fno-exceptions", "-std=gnu++17", "-std=gnu++20", "-fno-rtti"],
    "cflags_cc": ["-std=c++20", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-fvisibility=hidden"],
    "conditions": [
      ["werror==1", { "cflags_cc": ["-Werror"] }],
      ["sanitize==1", {
        "cflags!": ["-O3", "-fomit-frame-pointer"],
        "cflags": ["-O1", "-gline-tables-only", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                   "-fno-omit-frame-pointer"],
        "ldflags": ["-fsanitize=address,undefined", "-shared-libasan"]
      }]
    ]
  },
  "targets": [
    {
      "target_name": "vfio_soft",
      "type": "static_library",
      "cflags_cc": ["-fPIC"],
      "sources": ["<!@(find native/base native/guard native/inject native/ledger native/soft -name '*.cc' | sort)"]
    },
    {
      "target_name": "vfio",
      "sources": ["<!@(find native/kernel native/binding -name '*.cc' | sort)"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      # Before napi.h, whose handling of exceptions it replaces.
      "cflags_cc": ["-include", "<(module_root_dir)/native/binding/exceptions.h"],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS_ALL", "NODE_ADDON_API_DISABLE_DEPRECATED",
                  "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "ldflags": ["-Wl,-z,nodelete"],
      # The addon's operators new are its own (native/base/reserve.cc), but under a sanitizer, which has its own.
      "conditions": [
        ["sanitize==0", { "dependencies": ["vfio_soft"], "ldflags": ["-Wl,-Bsymbolic-functions"] }],
        ["sanitize==1", { "libraries": ["<(soft)"] }]
      ]
    }
  ],
  "conditions": [
    [
      "bench==1",
      {
        "targets": [
          {
            "target_name": "vfio_bench",
            "dependencies": ["vfio_soft"],
            "type": "shared_library",
            "sources": ["<!@(find bench/native -name '*.cc' | sort)"],
            "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
            "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED"],
            "cflags!": ["-O3"],
            "cflags": ["-O2"]
          }
        ]
      }
    ]
  ]
}
