#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	int limit = argc > 1 ? atoi(argv[1]) : 1;

	for (int number = 1; number <= limit; number++)
		printf("%d\n", number);
	return 0;
}
