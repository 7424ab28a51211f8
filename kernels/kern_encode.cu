/* The instances of the fast encoder. */
#include "kernels/kern_encode.cuh"
#include "kernels/kern_launch.cuh"

template <unsigned DIM, unsigned BITS, bool BF16> static struct kern_choice choice()
{
	return kern_choice_make(kern_encode_fast<DIM, BITS, BF16>, ENCODE_TEAMS, encode_layout<DIM, BITS>::bytes);
}

template <unsigned DIM> static struct kern_choice choice_of_bits(unsigned number)
{
	switch (number) {
	case 0:
		return choice<DIM, 2, false>();
	case 1:
		return choice<DIM, 2, true>();
	case 2:
		return choice<DIM, 4, false>();
	case 3:
		return choice<DIM, 4, true>();
	case 4:
		return choice<DIM, 8, false>();
	default:
		return choice<DIM, 8, true>();
	}
}

struct kern_choice kern_encode_choice(unsigned number)
{
	switch (number / 6) {
	case 0:
		return choice_of_bits<64>(number % 6);
	case 1:
		return choice_of_bits<128>(number % 6);
	default:
		return choice_of_bits<256>(number % 6);
	}
}
