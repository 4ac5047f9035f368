'use strict';

// A figure is in the page once for light surroundings and once for dark ones: for a paper, the light one.
for (const button of document.querySelectorAll('button.download')) {
  button.addEventListener('click', () => {
    const link = document.createElement('a');
    link.href = button.closest('figure').querySelector('img').src;
    link.download = button.dataset.name;
    link.click();
  });
}
