//! Where the positions of a sequence are: [`Cache`].

use std::sync::Arc;

use avp_backend::{BackendError, Filled, KvRange};

use crate::ffi::Context;
use crate::image::{Image, Planes, no_memory};
use crate::loaded::Loaded;

/// Positions of a sequence: in a context of llama.cpp, in an image, or in both.
pub(crate) struct Cache {
    model: Arc<Loaded>,
    context: Option<Context>,
    /// Whether the context holds what the cache holds.
    is_loaded: bool,
    image: Option<Arc<Image>>,
    /// What each layer holds while an import is under way.
    pub(crate) filled: Vec<Filled>,
}

impl Cache {
    pub(crate) fn new(model: Arc<Loaded>) -> Self {
        let filled = vec![Filled::default(); model.layout.layers];
        Self { model, context: None, is_loaded: false, image: None, filled }
    }

    /// A copy of the `len` positions, and of what an import has brought beyond them, for one that goes on from here. It takes
    /// the context along: this one is at rest and keeps an image.
    pub(crate) fn go_on(&mut self, len: usize) -> Result<Self, BackendError> {
        let holds = len > 0 || self.image.is_some();
        let image = if holds { Some(self.image(len)?) } else { None };
        let context = if self.is_loaded { self.context.take() } else { None };
        let is_loaded = context.is_some();
        self.is_loaded = false;
        let (model, filled) = (Arc::clone(&self.model), self.filled.clone());
        Ok(Self { model, context, is_loaded, image, filled })
    }

    /// A context that holds the `len` positions and has room for `capacity`.
    pub(crate) fn load(&mut self, len: usize, capacity: usize) -> Result<&mut Context, BackendError> {
        let has_room = self.context.as_ref().is_some_and(|context| context.capacity() >= capacity);
        if !has_room || !self.is_loaded {
            let image = if len > 0 { Some(self.image(len)?) } else { None };
            if !has_room {
                self.give_back();
                self.context = self.model.context(capacity);
            }
            let context = self.context.as_mut().ok_or_else(|| no_memory(capacity))?;
            match image {
                Some(image) => image.load_into(&self.model, context, len)?,
                None => {
                    context.clear();
                    context.begin(0);
                }
            }
            self.is_loaded = true;
        }
        self.context.as_mut().ok_or_else(|| no_memory(capacity))
    }

    /// Has the context hold `len` positions after a pass that failed.
    pub(crate) fn take_back(&mut self, len: usize) {
        if self.context.as_mut().is_some_and(|context| context.truncate(len)) {
            return;
        }
        // The context is no longer what it should be.
        self.context = None;
        self.is_loaded = false;
    }

    /// The context holds `len` positions, and is alone in that.
    pub(crate) fn appended(&mut self, len: usize) {
        self.image = None;
        self.filled.fill(Filled::prefix_of(len));
    }

    /// Canonical KV of `range` of the `len` positions: see [`Planes::read`].
    pub(crate) fn read(
        &mut self,
        len: usize,
        range: &KvRange,
        each: usize,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        if let (None, true, Some(context)) = (&self.image, self.is_loaded, &mut self.context)
            && let Some(planes) = Planes::of(&self.model, context, len)
        {
            return planes.read(&self.model, range, each, out);
        }
        let image = self.image(len)?;
        image.planes(&self.model).read(&self.model, range, each, out)?;
        if self.is_loaded && range.layers.end == self.model.layout.layers && range.tokens.end == len {
            // The last part was asked for: what llama.cpp holds is not needed twice any more.
            self.image = None;
        }
        Ok(())
    }

    /// An image of the first `len` positions or more.
    fn image(&mut self, len: usize) -> Result<Arc<Image>, BackendError> {
        if let Some(image) = &self.image {
            return Ok(Arc::clone(image));
        }
        let lost = || BackendError::Engine("the cache was lost when llama.cpp failed; start again".into());
        let context = self.context.as_mut().filter(|_| self.is_loaded).ok_or_else(lost)?;
        let image = Arc::new(Image::of(&self.model, context, len)?);
        self.image = Some(Arc::clone(&image));
        Ok(image)
    }

    /// The image to write imports to, of `end` positions or more. It grows by half at least, up to `capacity`, and is no larger
    /// than what has come where that can be: llama.cpp takes such an image as it is. What is written is in it alone.
    pub(crate) fn image_mut(
        &mut self,
        len: usize,
        end: usize,
        capacity: usize,
    ) -> Result<&mut Image, BackendError> {
        let reach = self.filled.iter().map(Filled::reach).max().unwrap_or(0);
        let mut image = match (self.image.take(), reach) {
            (None, 0) => Arc::new(Image::new(&self.model, end)?),
            (None, _) => self.image(len)?,
            (Some(image), _) => image,
        };
        if image.cells() < end || Arc::get_mut(&mut image).is_none() {
            let ahead = image.cells() + image.cells() / 2;
            let cells = if image.cells() < end { ahead.min(capacity).max(end) } else { image.cells() };
            image = Arc::new(image.resized(&self.model, cells, reach.min(image.cells()))?);
        }
        self.is_loaded = false;
        Arc::get_mut(self.image.insert(image)).ok_or_else(|| no_memory(end))
    }

    fn give_back(&mut self) {
        if let Some(context) = self.context.take() {
            self.model.give_back(context);
        }
        self.is_loaded = false;
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.give_back();
    }
}
