// A program that keeps its mirror of sysfs in use. `hold` lists a folder of the mirror, prints a line, waits until
// its input ends, and reads the mirror again. `orphan` starts a child that waits in this way, and kills itself.
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int devices(void) {
  DIR* listed = opendir("/sys/bus/pci/devices");
  int count = 0;
  if (!listed) return -1;
  while (readdir(listed)) ++count;
  closedir(listed);
  return count;
}

static void waitForTheEnd(void) {
  char byte;
  while (read(0, &byte, 1) > 0) continue;
}

int main(int count, char** arguments) {
  const char* what = count > 1 ? arguments[1] : "look";
  const int first = devices();
  if (strcmp(what, "orphan") == 0 && fork() != 0) kill(getpid(), SIGKILL);
  printf("ready %d\n", getpid());
  fflush(stdout);
  if (strcmp(what, "look") != 0) waitForTheEnd();
  char text[16] = "";
  FILE* file = fopen("/sys/bus/pci/devices/0000:00:10.0/vendor", "r");
  if (file && !fgets(text, sizeof text, file)) text[0] = '\0';
  if (file) fclose(file);
  printf("%s\n", first > 2 && devices() == first && strcmp(text, "0x1234\n") == 0 ? "whole" : "broken");
  return 0;
}
